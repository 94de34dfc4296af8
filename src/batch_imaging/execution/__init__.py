"""Where and in what order work runs: executors, engines that bring clusters, the plan, progress."""
