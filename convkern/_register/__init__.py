"""What teaches torch about the ops, a module a subsystem. Fakes are in C++, with the ops."""

from convkern._register import autograd


def register() -> None:
    """Registers everything; called once, when convkern is imported."""
    autograd.register()
