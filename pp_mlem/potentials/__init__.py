"""What steps multiply and sum: tables of logs over named axes, quadratics over real coordinates."""
