from vlmtool.models.projectors.xdp import XDPProjector

projector = dict(type=XDPProjector, factor=4)
