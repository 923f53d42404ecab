"""The `docker` sandbox: the `local` back end inside locked-down containers.

`relay` runs inside, `wire` on both sides, everything else on the trusted side.
"""
