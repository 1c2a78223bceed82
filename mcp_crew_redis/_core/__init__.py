"""The connection to Redis: the only folder that imports redis-py and hiredis."""
