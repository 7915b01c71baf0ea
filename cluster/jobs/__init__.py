"""Jobs and idempotency keys over a record store: who may do what when, and no HTTP."""
