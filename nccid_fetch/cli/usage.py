"""What typer finds wrong with a command line, in our words: what, where, and the next step."""

from typing import Any

from nccid_fetch.errors import UsageError

from .configfile import key_of, reason, takes
from .origins import origin_of

_EXTRA = "Got unexpected extra argument(s) "


def usage_error(error: Any) -> UsageError:  # noqa: ANN401 - typer does not export the class of all of these.
    """Return an error of typer's as one of ours: one sentence, and the next step."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "nccid-fetch"
    message, step = _told(error, context)
    joint = "" if not step else " " if step.endswith("?") else "; "
    return UsageError(message, hint=f"{step}{joint}{command} --help shows what there is")


def _told(error: Any, context: Any) -> tuple[str, str]:  # noqa: ANN401 - as above.
    """Return what is wrong, and what would be right as far as can be known."""
    parameter = getattr(error, "param", None)
    if parameter is not None and context is not None and error.message:
        right = takes(parameter, context)
        if parameter.param_type_name == "argument":
            return f"{parameter.display_name_raw}: {reason(error.message)}", f"{parameter.display_name_raw} {right}"
        flag = f"--{key_of(parameter)}"
        origin = origin_of(parameter, context.get_parameter_source(parameter.name), context)
        where = origin.name if origin.kind == "variable" else flag
        return f"{where}: {reason(error.message)}", f"{flag} {right}"
    option = getattr(error, "option_name", None)
    if option and hasattr(error, "possibilities"):
        owners = _owners(option, context)
        if owners:
            return f"{context.command_path} has no {option}", f"it belongs to {', '.join(owners)}"
        near = next(iter(error.possibilities or ()), None)
        return f"no such option: {option}", f"did you mean {near}?" if near else ""
    if error.message.startswith(_EXTRA):
        words = error.message.removeprefix(_EXTRA)[1:-1]
        return f"{context.command_path} has no use for {words}", "nccid-fetch get takes the names of parts"
    # An argument's choices come in lines.
    sentence, _, guess = " ".join(error.format_message().split()).partition(" Did you mean ")
    step = f"did you mean {guess.rstrip('?').replace(chr(39), '')}?" if guess else ""
    return sentence[:1].lower() + sentence[1:].rstrip("."), step


def _owners(option: str, context: Any) -> list[str]:  # noqa: ANN401 - as above.
    """Return the commands that do have an option."""
    commands = getattr(context.find_root().command, "commands", {}) if context else {}
    return [name for name, command in commands.items() if any(option in parameter.opts for parameter in command.params)]
