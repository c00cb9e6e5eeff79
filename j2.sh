. /work/venv/bin/activate; cd /tmp/tasks/frozen7; export PYTHONPATH=$PWD OMP_NUM_THREADS=1
Q="taskset -c 0 timeout 900 python benchmarks/tasks.py segmentation --train 1200 --test 300 --rows /tmp/tasks/rows7.jsonl"
L="flock /work/bench.lock"
$L $Q --seeds 0 --row float "in groups, GPTQ" "in groups, blocks" "int4-weight, blocks" "trained" > /tmp/tasks/s0w4.txt 2>&1
$L $Q --seeds 1 --row float "pruned and decomposed" "int4-weight, GPTQ" > /tmp/tasks/s1.txt 2>&1
