#!/bin/bash
# sbatch slurm.sh: eight processes on two machines, each with four cores, read their shares of the same files.
#SBATCH --job-name=pp-mlem
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=4
#SBATCH --time=02:00:00
#SBATCH --requeue

# A process that is lost ends all (--kill-on-bad-exit). The job is then begun again, up to three times, and goes on
# from the checkpoint, as it does where SLURM requeues it.
for attempt in 1 2 3; do
    srun --kill-on-bad-exit=1 --cpu-bind=cores python streamed_slurm.py "$SCRATCH/data/*.parquet" && exit 0
    echo "attempt $attempt has failed; the next goes on from the checkpoint" >&2
done
exit 1
