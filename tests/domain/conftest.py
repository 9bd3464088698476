from hypothesis import strategies as st

from eatnas_db.domain.architecture import DEPTHS, KERNELS, OPS, SKIPS, WIDTHS, Architecture, Block

_blocks = st.builds(
    Block,
    op=st.sampled_from(OPS),
    kernel=st.sampled_from(KERNELS),
    skip=st.sampled_from(SKIPS),
    depth=st.sampled_from(DEPTHS),
    width=st.sampled_from(WIDTHS),
)
st.register_type_strategy(Block, _blocks)
st.register_type_strategy(Architecture, st.lists(_blocks, min_size=7, max_size=7).map(lambda b: Architecture(tuple(b))))
