"""What a run did, as typed events: `events` says which, `store` keeps them, `sinks` passes them on."""
