"""An environment with a calculator: the model writes an expression, reads its value, and answers."""

from halcyon.inference.calculator import calculate
from halcyon.run.policy.environment_process import Conversation


def calculator(conversation: Conversation) -> float:
    """1 for the number of the reference after ####, and 0 otherwise."""
    messages = list(conversation.messages)
    call = conversation.chat(messages)
    messages += [call, {"role": "user", "content": calculate(call["content"]) or "no value"}]
    answer = conversation.chat(messages)["content"]
    return float(answer.partition("####")[2].strip() == conversation.reference.partition("####")[2].strip())
