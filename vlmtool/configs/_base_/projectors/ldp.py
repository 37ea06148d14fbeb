from vlmtool.models.projectors.ldp import LDPProjector

projector = dict(type=LDPProjector)
