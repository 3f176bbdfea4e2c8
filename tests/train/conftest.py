"""What several of these tests start from."""

from dataclasses import replace

import pytest

from trudi.train.envs import envpool


@pytest.fixture(scope="module")
def short_episodes():
    """EnvPool's episodes last 100 steps and not 1000, for modules that need whole episodes, and no long ones.

    Its value is EnvPool's own `make`, for a test among them that needs those.
    """
    original = envpool.make

    def make(name, num_envs, seed, *, sim, **options):
        return original(
            name, num_envs, seed, sim=replace(sim, overrides=(*sim.overrides, "max_episode_steps=100")), **options
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envpool, "make", make)
        yield original
