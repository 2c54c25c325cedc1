"""Which commands in a job of Slurm are ranks of one run."""

import pytest

from uer.config import ParallelConfig
from uer.errors import UserError
from uer.runtime.launch import RankInfo, local_ranks

JOB = {"SLURM_JOB_ID": "1234567", "SLURM_JOB_NAME": "train", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NTASKS": "4"}
FIRST = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


def test_what_srun_starts_is_a_rank():
    step = {**JOB, "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4"}
    (rank,) = local_ranks(ParallelConfig(), step)
    assert (rank.rank, rank.world_size, rank.local_rank, rank.host, rank.port) == (3, 4, 1, "n1", 24567)


def test_the_script_of_sbatch_runs_once():
    """It would wait for three ranks that never come."""
    with pytest.raises(UserError, match=r"the job has 4 tasks .*write srun before python3, or .*--cpus-per-task=4$"):
        local_ranks(ParallelConfig(), {**JOB, **FIRST})
    spawned = local_ranks(ParallelConfig(world_size=4, gpu_ranks=(0, 1, 2, 3)), {**JOB, **FIRST})
    assert [rank.rank for rank in spawned] == [0, 1, 2, 3]
    assert local_ranks(ParallelConfig(), {**JOB, **FIRST, "SLURM_NTASKS": "1"}) == [RankInfo()]


@pytest.mark.parametrize("shell", [
    {}, {**FIRST, "SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1"}])
def test_in_the_shell_of_salloc_a_command_runs_alone(shell):
    """Of salloc itself, and of the step of one task that it may start for the shell on a machine of the job."""
    assert local_ranks(ParallelConfig(), {**JOB, **shell}) == [RankInfo()]
