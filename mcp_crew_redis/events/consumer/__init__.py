"""Who handles events: streams found, read, worked on, acknowledged, recovered.

discovery   which streams there are, and which have grown (the bell)
table       the streams of one subscription: ready, by priority lane
reading     fetches what there is room for
hand        what is in this process: queues, room, order by key
working     runs handlers, and what their outcomes mean
settling    acknowledgements, retries, dead letters
recovery    what others have left behind, and what is due again
runner      all of it, for one subscription
service     all subscriptions of one consumer
"""
