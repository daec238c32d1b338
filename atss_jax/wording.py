"""Words of messages."""


def counted(count: int, noun: str) -> str:
    """`1 picture`, `2 pictures`."""
    return f'{count} {noun}' if count == 1 else f'{count} {noun}s'
