"""The operator `ghost` of GhostNet, and a space that has it next to the operators of EAT-NAS."""

from eatnas_db.domain.macro import Macro
from eatnas_db.domain.operators import BUILT_IN_OPERATORS, Operator, convolution


def count(layer):
    rest = layer.outputs // 2
    dense = convolution(1, layer.inputs, layer.outputs - rest, layer.side, stride=layer.stride)
    return [dense, convolution(layer.kernel, rest, rest, layer.output_side, groups=rest)]


INHERIT = "eatnas_training.inheritance.equal_tensors:copy_equal_layer"
GHOST = Operator("ghost", count, module="eatnas_ghost.layers:Ghost", inherit=INHERIT)
SPACE = Macro("ghost-tiny", 8, 1, (1, 2, 2), (16, 24, 32), 64, 0.5, operators=(GHOST, *BUILT_IN_OPERATORS))
