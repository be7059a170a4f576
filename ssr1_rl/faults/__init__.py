"""How a run handles faults: guards stop it, the budget tolerates failed groups, the watchdog reports what it waits for.

Time-outs and retries of one kind of actor are in the pool of that kind.
"""
