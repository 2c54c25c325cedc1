"""The layouts that tests compare."""

from functools import partial

from uer.layers.layout import padded_layout, unpadded_layout

# Groups of rows of exactly one length: no padding is computed.
exact_layout = partial(unpadded_layout, merged_padding=0)
LAYOUTS = {"padded": padded_layout, "exact": exact_layout, "little padding": partial(unpadded_layout, merged_padding=3),
           "unpadded": unpadded_layout}
