//! What the client side gives a build: local files, secrets, ssh agents, credentials, output targets.
