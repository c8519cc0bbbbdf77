"""placeholder"""


def unsupported_reason(m):
    return "x"


def integer_layer(*a): ...
def make_lean(*a): ...
