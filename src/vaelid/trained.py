"""The trained model of a run folder: recipe, trust in its code, weights; the one place where a model is opened."""

from __future__ import annotations

from vaelid.build import build_model, read_inputs
from vaelid.errors import RunError
from vaelid.folder import RunFolder
from vaelid.training.surroundings import own_randomness
from vaelid.usercode import require_trust, trust
from vaelid.vae import VAE


def trained_model(folder: RunFolder, allow_code: bool = False) -> tuple[VAE, str]:
    """The kept model on the CPU, ready to be evaluated, and the SHA-256 of its weights' file as it was read.

    The caller's random numbers stay as they were.

    Args:
        allow_code: run the user code that the folder brings along, wherever it came from

    Raises:
        PartError: if the run uses code that may not run here.
        RunError: if there are no weights yet, or those of another model.
    """
    recipe = folder.recipe()
    for name, digest in recipe.code.items():
        if allow_code:
            trust(digest)
        require_trust(folder.code / name, digest)
    weights, digest = folder.weights_and_digest()
    about = folder.read_json(folder.environment_file)
    with own_randomness(0):
        model = build_model(recipe, *read_inputs(about["data"]), folder.code)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise RunError(
            f"{folder.weights_file} does not belong to recipe.toml: {reason}", "Restore the files of the run."
        ) from error
    return model.eval().requires_grad_(False), digest
