"""What an application uses: `connect()` to the agent on its machine, or `embed()` the runtime into its own process."""
