"""The CPU benchmark: bash scripts/benchmark_cpu.sh; docs/results/speed_cpu/README.md says what it measures."""
