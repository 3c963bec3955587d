"""The simulation finds what is wrong with a policy; all of the faults it has to find: `make mutants`."""

import pytest

from .mutants import MUTANTS, Mutant, fits, planted


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=list(MUTANTS))
def test_every_fault_can_be_planted(mutant: Mutant) -> None:
    assert fits(mutant)


@pytest.mark.parametrize("name", ["no limit on draining", "the canary is not watched", "a second request is forgotten"])
def test_a_fault_is_found(name: str) -> None:
    assert "Broken" in planted(MUTANTS[name]).fault
