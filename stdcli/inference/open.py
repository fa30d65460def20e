"""The one door to a model that restyles: the command line, the report and programs open sessions here."""

from __future__ import annotations

from collections.abc import Sequence

from stdcli.config.schema import StylizeConfig
from stdcli.errors import ConfigError
from stdcli.inference.configured_model import check_training_range, load_configured
from stdcli.inference.session import StyleSession
from stdcli.inference.settings import SamplingSettings, resolve_sampling
from stdcli.media.image import Picture
from stdcli.models.bundle import Bundle
from stdcli.reporter import Reporter


def open_session(
    config: StylizeConfig,
    styles: Sequence[Picture],
    reporter: Reporter,
    *,
    masked: bool = False,
    weights: bool = True,
    strict: bool = False,
) -> StyleSession:
    """Load the model that settings name, with its student and adapters, and settle how it samples.

    Args:
        config: resolved settings of `stylize` or `inpaint`.
        styles: pictures to paint like; without any, a style adapter waits for the first.
        reporter: told of the loading, of what the user should know, and later of the session's own news.
        masked: whether parts are repainted, without which an inpainting network is refused.
        weights: False reads configs and headers only, for a session that can say what it would do.
        strict: refuse what the student was not trained for, where else a warning is given.

    Raises:
        ConfigError: settings that contradict the model's, or with `strict` the student's training.
        ModelError, HubError, ResourceError: as `load_model`.
    """
    bundle = load_configured(config, styles=bool(styles), masked=masked, weights=weights, reporter=reporter)
    return start_session(bundle, config, styles, reporter, strict=strict)


def start_session(
    bundle: Bundle,
    config: StylizeConfig,
    styles: Sequence[Picture],
    reporter: Reporter,
    *,
    strict: bool = False,
) -> StyleSession:
    """A session of a model that is loaded; arguments and errors as `open_session`."""
    settings = resolve_sampling(
        config, bundle.network.recipe, bundle.network.schedule, prediction=bundle.network.prediction
    )
    _check_fit(bundle, settings, reporter, strict=strict)
    session = StyleSession(bundle, config, settings, styles, reporter)
    session.report()
    return session


def _check_fit(bundle: Bundle, settings: SamplingSettings, reporter: Reporter, *, strict: bool) -> None:
    with reporter.stage(f"hashing {bundle.network.name}"):
        mismatched = list(check_training_range(bundle, settings))
    if mismatched and strict:
        raise ConfigError(
            "not what this student was trained for", mismatched, hint="leave --strict out to try it"
        )
    for _, sentence in mismatched:
        reporter.warning(sentence)
