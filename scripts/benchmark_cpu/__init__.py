"""The CPU benchmark: bash scripts/benchmark_cpu.sh; docs/results/speed_cpu/README.md explains what it measures."""
