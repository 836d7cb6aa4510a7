# nat_ar with the exact versions of requirements.txt, on CPUs or with CUDA (the machine needs NVIDIA's driver and container toolkit):
#
#   docker build -t nat_ar .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD":/workspace nat_ar study toy
#
#   docker build -t nat_ar:cuda12 --build-arg EXTRAS=cuda12 .
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD":/workspace nat_ar:cuda12 study toy
#
# Written without a Docker to build it with: not yet built; the steps are those of scripts/environment.sh.
FROM python:3.12-slim

# For the kernels that nat_ar builds at first use.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*

# Extras of pyproject.toml, separated by commas.
ARG EXTRAS=debian

COPY requirements.txt /nat_ar/
RUN pip install --no-cache-dir -r /nat_ar/requirements.txt
COPY . /nat_ar
RUN pip install --no-cache-dir -c /nat_ar/requirements.txt "/nat_ar[${EXTRAS}]"

WORKDIR /workspace
ENTRYPOINT ["python", "-m", "nat_ar"]
