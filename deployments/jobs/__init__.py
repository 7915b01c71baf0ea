"""Jobs: accepted at once, drawn later, kept until read. Routes, runner, idempotency keys."""
