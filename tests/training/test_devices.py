"""A training run on several devices claims as many different GPUs; here GPUs are only numbers."""

import threading

import pytest
import torch

from fewshot.errors import ResourceError
from fewshot.training.devices import claim_devices, claim_slot, physical_names


@pytest.fixture(autouse=True)
def three_gpus(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)


def gpus(*numbers):
    return [torch.device("cuda", number) for number in numbers]


def test_claimed_devices_differ_even_if_one_is_shared(tmp_path):
    other_job = claim_slot(["0", "1", "2"], 2, tmp_path)

    devices, _ = claim_devices("auto", 3, 2, tmp_path)

    assert other_job[0] == "0"
    assert devices == gpus(0, 1, 2)


def test_two_jobs_that_need_all_devices_do_not_deadlock(tmp_path):
    _, other_job = claim_slot(["0", "1", "2"], 1, tmp_path)
    got = []

    def job():
        devices, locks = claim_devices("cuda", 3, 1, tmp_path)
        got.append(devices)
        for lock in locks.values():
            lock.release()

    jobs = [threading.Thread(target=job) for _ in range(2)]
    for thread in jobs:
        thread.start()
    jobs[0].join(timeout=1)
    assert not got

    other_job.release()
    for thread in jobs:
        thread.join(timeout=30)
    assert got == [gpus(0, 1, 2)] * 2


def test_more_devices_than_exist_are_refused(tmp_path):
    with pytest.raises(ResourceError, match=r"devices: 4 needs 4 GPUs, but torch sees 3; .*CUDA_VISIBLE_DEVICES"):
        claim_devices("auto", 4, 1, tmp_path)


def test_no_lock_is_taken_on_a_cpu(tmp_path):
    devices, lock = claim_devices("cpu", 2, 1, tmp_path)

    assert devices == [torch.device("cpu")] * 2
    assert lock is None
    assert not list(tmp_path.iterdir())


def test_a_requested_gpu_must_exist(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    with pytest.raises(ResourceError, match="torch sees no GPU"):
        claim_devices("cuda", 2, 1, tmp_path)


class Properties:
    """Properties of a GPU as torch reports them."""

    def __init__(self, uuid):
        self.uuid = uuid


def test_locks_are_named_by_the_card_however_it_is_numbered(monkeypatch):
    cards = ["GPU-5cd", "MIG-GPU-5cd/7/0", "GPU-9ab"]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties(cards[index]))
    for visible, allocation in (("00,1,GPU-9ab", None), ("2,0,1", "17")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        if allocation is not None:
            monkeypatch.setenv("SLURM_JOB_ID", allocation)
        assert physical_names(["0", "1", "2"]) == ["GPU-5cd", "MIG-GPU-5cd-7-0", "GPU-9ab"]


def test_a_slice_of_a_card_without_a_uuid_makes_no_nested_folders(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties(""))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-GPU-5cd/7/0")
    _, lock = claim_slot(["0"], 1, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["gpu-MIG-GPU-5cd-7-0-slot-0.lock"]
    lock.release()
