"""The `jupyter` sandbox: IPython kernels, in bubblewrap where there is one.

`guard` and `fence` run inside, everything else on the trusted side.
"""
