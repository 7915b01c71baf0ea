"""What a cluster would do with a trace: discrete events over the service's own decisions."""
