import pytest
import torch

from uer.layers.cpu.random_bits import KeepMasks


@pytest.mark.parametrize("drop", [0.001, 0.1, 0.5, 0.9])
def test_fraction_of_kept_elements(drop):
    torch.manual_seed(3)
    kept = KeepMasks(drop).draw((1000, 1003)).double().mean().item()
    deviation = (drop * (1 - drop) / 1e6) ** 0.5
    assert abs(kept - (1 - drop)) < 4 * deviation


def test_kept_elements_are_scaled_to_the_same_expectation():
    for drop in (0.001, 0.1, 0.37):
        masks = KeepMasks(drop)
        level = round(drop * 2**16) / 2**16
        assert abs(masks.scale * (1 - level) - 1) < 1e-12


def test_masks_differ_and_neighbours_are_independent():
    torch.manual_seed(3)
    masks = KeepMasks(0.3)
    first, second = masks.draw((500, 499)).double(), masks.draw((500, 499)).double()
    both = 0.7 * 0.7
    assert abs((first * second).mean().item() - both) < 0.005
    assert abs((first[:, 1:] * first[:, :-1]).mean().item() - both) < 0.005
    assert abs((first[1:] * first[:-1]).mean().item() - both) < 0.005


def test_the_state_of_torchs_generator_decides():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = [KeepMasks(0.5).draw((7, 13)) for _ in range(2)]
    assert not torch.equal(first[0], first[1])
    torch.set_rng_state(state)
    again = [KeepMasks(0.5).draw((7, 13)) for _ in range(2)]
    assert torch.equal(torch.stack(first), torch.stack(again))


def test_odd_numbers_of_elements():
    for count in (1, 3, 5, 4099):
        assert KeepMasks(0.5).draw((count,)).shape == (count,)
