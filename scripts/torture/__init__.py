"""Long tests of what is promised in docs/reliability.md; tests/test_torture.py runs a short version."""
