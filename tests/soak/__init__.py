"""A soak: ingestq runs for as long as you like while everything that can happen happens.

    make soak
    SOAK_HOURS=8 SOAK_SEED=7 make soak

Documents arrive in watched folders, by the API and by ``ingestq add``, are edited, renamed and
deleted without pause, while processes are killed, stopped and restarted and clocks are moved. In
the end the index has to equal the sources.
"""
