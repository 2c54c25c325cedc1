"""The weights of --pretrained_model_path: a run loads them, and `--dry_run` sees whether they fit."""

from collections.abc import Callable

from uer.checkpoint import files as checkpoint
from uer.convert.open import load_uer_weights
from uer.lora import adapt, require_backbone
from uer.model import Model
from uer.sizes import check_sizes
from uer.training.inputs import Settings
from uer.training.run_problems import initial_settings


def load_pretrained(model: Model, settings: Settings, vocab_size: int, say: Callable[[str], None]) -> None:
    """Load the weights into a model of random ones, and with --use_lora add the adapters that are trained.

    Args:
        model: may be on the meta device, where only names and shapes are compared.
        vocab_size: entries of the run's vocabulary.
        say: called with a line for each key that does not fit.

    Raises:
        UserError: the file cannot be read, or belongs to a model of other sizes or of another kind.
    """
    path, lora = settings.train.pretrained_model_path, settings.lora
    weights = load_uer_weights(path, say)
    check_sizes(weights, settings.model, vocab_size, path, settings.train.config_path)
    report = checkpoint.load_into(model, weights, path)
    lines = report.lines()
    say(f"loaded {path}" + ("" if lines else ": every key fits"))
    for line in lines:
        say(f"{path}: {line}")
    if not (report.missing or report.other_shape) and (idle := initial_settings(settings.train)):
        say(f"warning: {' '.join(idle)}: without effect, because every weight is in {path}")
    if lora.use_lora:
        require_backbone(report, path)
        adapt(model, lora, say, report.missing)
