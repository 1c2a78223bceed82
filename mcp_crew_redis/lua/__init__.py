"""One .lua file per atomic operation, each under a header that is its contract.

    -- What it does, in one sentence or more.
    -- KEYS[1] name   what it is
    -- ARGV[1] name   what it is, with its unit
    -- ARGV[2+] ids   the last line of a kind may stand for any number, none included
    -- Returns {what, it returns}
    -- Expiry: how its writes expire, which permanent key it writes, or "read only"

`_core/scripts.py` reads the header, checks it against the code and refuses a file that
breaks it. Every file has a test of its own name in `tests/lua`.
"""
