"""Why a training ended, as its cause and one sentence: for a process, and for the library."""

from halcyon.host.errors import TrainerExit, first_line, no_thread
from halcyon.run.last_save import NOTICE
from halcyon_api.ends import EndCause
from halcyon_api.package import missing

STOPPED, TERMINATED = "stopped by you", "stopped by SIGTERM"
"""What a notice is on the user's own machine."""


def in_words(message: str, interrupts: int) -> str:
    """The message of an end after a notice, in the words of the user's own machine.

    Args:
        message: The sentence.
        interrupts: Number of interrupts from the keyboard.
    """
    return message.replace(NOTICE, STOPPED if interrupts else TERMINATED)


def error_outcome(error: BaseException) -> tuple[EndCause, str, bool]:
    """The cause of an end by an error, its sentence, and whether the error is a known one: others need their stack."""
    if isinstance(error, TrainerExit):
        return error.cause, str(error), True
    if isinstance(error, KeyboardInterrupt):
        return EndCause.FAILED, f"{STOPPED} at once", True
    if "RESOURCE_EXHAUSTED" in str(error):
        fix = "give a smaller batchSize, more microbatches, or devices with more memory"
        sentence = f"spec.trainer.batchSize: a device has too little memory; {fix}: {first_line(error)}"
    elif isinstance(error, ModuleNotFoundError) and error.name is not None and not error.name.startswith("halcyon"):
        sentence = missing(error.name)
    elif not (sentence := no_thread(error)):
        return EndCause.FAILED, f"{type(error).__name__}: {first_line(error)}", False
    return EndCause.FAILED, sentence, True
