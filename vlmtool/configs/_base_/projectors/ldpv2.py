from vlmtool.models.projectors.ldpv2 import LDPv2Projector

projector = dict(type=LDPv2Projector, grid_size=12)
