"""What the integration tests and the demo stand on: servers, clients, and ways to wait."""
