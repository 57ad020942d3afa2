"""The pure middle: octets in, octets out. No socket, SQL, clock, randomness or logging; start at
`journey`."""
