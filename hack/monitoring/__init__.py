"""What watches a cluster, made from `epd.telemetry`: rules, alerts, dashboards, pictures."""
