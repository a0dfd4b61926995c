"""What the cloud does, free of HTTP and MQTT: each module one concern, its tools given to the constructor."""
