class Emulation:
    pass
