"""What runs on the far side of the fence: launcher, zygote and session children.

Modules here import the standard library only, and each other: the sandbox interpreter may belong
to another virtual environment that has neither agentrl nor its dependencies.
"""
