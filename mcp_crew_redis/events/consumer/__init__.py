"""Who handles events: streams found, read, worked on, acknowledged, recovered.

    discovery   which streams there are, and which have grown (the bell)
    table       the streams of one subscription: ready, by priority lane
    groups      consumer groups, made where they are missing
    reading     fetches what there is room for; requests: how much that is
    intake      what comes: events for the handler, and what never gets there
    hand        what is in this process: held, by lanes, key_order and doubts
    working     runs handlers; verdicts: what their failures mean
    settling    acknowledgements, retries, dead letters; books: their keys
    recovery    what others have left behind, and what is due again: claims, pacing
    keeping     what waits here for its next attempt, in the order of its key
    holding     signs of life for entries; presence: of the process, and partitions
    runner      all of it, for one subscription; counts: what it has done
    service     all subscriptions of one consumer

Entries come in by `intake`; what is decided about them leaves by `settling`.
"""
