"""The pretend GPU itself: it computes like the CPU, refuses what a GPU refuses and counts what a GPU would do."""

import pytest
import torch


def test_it_computes_and_differentiates_like_the_cpu(gpu):
    x = torch.arange(6.0).reshape(2, 3).requires_grad_()
    y = torch.arange(6.0).reshape(2, 3).to(gpu.device).requires_grad_()
    (x.exp() @ x.T).sum().backward()
    (y.exp() @ y.T).sum().backward()
    assert y.grad.device == gpu.device
    torch.testing.assert_close(y.grad.cpu(), x.grad, rtol=0, atol=0)


def test_tensors_of_both_devices_do_not_mix(gpu):
    ours = torch.ones(3).to(gpu.device)
    with pytest.raises(RuntimeError, match="a CPU tensor"):
        ours + torch.ones(3)
    assert (ours + torch.tensor(1.0)).tolist() == [2, 2, 2], "numbers may come from the host, as on a GPU"


def test_launches_uploads_and_synchronisations_are_counted(gpu):
    with gpu.counting() as counts:
        ours = torch.ones(3).to(gpu.device)
        doubled = (ours * 2).reshape(1, 3)
        doubled.sum().item()
        torch.nonzero(doubled)
    assert sum(counts.uploads.values()) == 1
    assert [place.split(" at ")[0] for place in counts.synchronisations] == ["item", "nonzero"]
    assert counts.operations["mul"] == counts.operations["sum"] == 1
    assert "view" not in counts.operations
    assert counts.launches >= 2
