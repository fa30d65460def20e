cd /tmp/H8; OMP_NUM_THREADS=1 PYTHONPATH=/tmp/H8 nice -n 19 /work/main/.venv/bin/python -m pytest -q "$@"
