"""What policies are measured against: log-probs under the base and under the reference.

The reference is the base, the weights the run starts from, or, after supervised
training, the weights that ended it: those are kept in `after_sft.safetensors` while the
run goes on, so that the reference can be taken again after a crash even if its cached
log-probs are gone. Leaves out the cache; see `reference.py`.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Parameter

from training.dpo.adapter import without_adapter
from training.dpo.data import Pair
from training.dpo.distributed import is_main
from training.dpo.errors import TrainerError
from training.dpo.files import put_in_place
from training.dpo.forward import Engine
from training.dpo.full import set_weights
from training.dpo.process import StopFlag
from training.dpo.progress import Progress
from training.dpo.reference import FixedLogps, ReferenceStore, fixed_logps
from training.dpo.sharding import gathered_on_main
from training.dpo.status import StatusFile
from training.dpo.weight_hash import hash_tensors

AFTER_SFT = "after_sft.safetensors"


@dataclass
class Anchor:
    """Takes log-probs of pairs under weights that do not change.

    `folders`: run folders, this one first, then the one it was resumed from; each may
    hold the weights after supervised training. `store` holds log-probs. `base_hash` is
    that of the base model's weights.
    """

    engine: Engine
    folders: Sequence[Path]
    store: ReferenceStore
    base_hash: str
    stop: StopFlag
    status: StatusFile

    def under_base(
        self, pairs: Sequence[Pair], ld_alpha: float | None = None
    ) -> FixedLogps:
        """Log-probs with the adapter off, summed as `ld_alpha` says."""
        with without_adapter(self.engine.model):
            return self._logps(pairs, self.base_hash, ld_alpha)

    def under_adapter(
        self,
        pairs: Sequence[Pair],
        adapter_hash: str,
        ld_alpha: float | None,
        refuse: Callable[[], None] | None = None,
    ) -> FixedLogps:
        """Log-probs under the base with the adapter whose hash is given.

        The model must hold that adapter; if it cannot, `refuse` is called, and must
        raise, where the cache is not enough.
        """
        weights = f"{self.base_hash}+{adapter_hash}"
        return self._logps(pairs, weights, ld_alpha, refuse)

    def _logps(
        self,
        pairs: Sequence[Pair],
        weights: str,
        ld_alpha: float | None,
        refuse: Callable[[], None] | None = None,
    ) -> FixedLogps:
        self.status.phase("reference", len(pairs))
        progress = Progress("reference", len(pairs), unit="pair")

        def each(done: int) -> None:
            if refuse is not None:
                refuse()
            self.stop.check()
            self.status.progress(phase_done=done)
            progress.reach(done)

        logps = fixed_logps(self.engine, pairs, self.store, weights, each, ld_alpha)
        progress.close()
        return logps

    def keep_weights(self, parameters: Mapping[str, Tensor]) -> None:
        """Write `after_sft.safetensors` in one rename."""
        path = self.folders[0] / AFTER_SFT
        temporary = path.with_name(f"tmp-{AFTER_SFT}")
        weights = gathered_on_main(parameters)
        if is_main():
            save_file(weights, temporary)
            put_in_place(temporary, path)

    def load_weights(self, parameters: Mapping[str, Parameter], wanted: str) -> bool:
        """Put the kept weights into `parameters` if they are there with that hash.

        A copy found in another folder is taken over into this one.
        """
        for folder in self.folders:
            path = folder / AFTER_SFT
            try:
                tensors = load_file(path)
            except (OSError, SafetensorError):
                continue
            if hash_tensors(tensors) != wanted:
                continue
            if folder != self.folders[0] and is_main():
                temporary = self.folders[0] / f"tmp-{AFTER_SFT}"
                shutil.copyfile(path, temporary)
                put_in_place(temporary, self.folders[0] / AFTER_SFT)
            set_weights(self.engine.model, parameters, tensors)
            return True
        return False

    def drop_weights(self) -> None:
        """Remove `after_sft.safetensors`: the run is done."""
        if is_main():
            (self.folders[0] / AFTER_SFT).unlink(missing_ok=True)


def refuse_lost_reference() -> None:
    """Raise: neither the weights after supervised training nor their log-probs exist."""
    raise TrainerError(
        f"The reference of this run, its weights after supervised training, is lost:"
        f" {AFTER_SFT} is missing or damaged and so are cached log-probs; put the file"
        " back, or start again in a fresh run folder."
    )
