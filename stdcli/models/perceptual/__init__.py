"""Networks that look at pictures: what metrics and style losses compare by; none of them paints."""
