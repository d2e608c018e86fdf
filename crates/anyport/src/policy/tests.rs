//! What the policy allows, and what it says where it does not.

use super::*;

fn gate(rules: &[&str]) -> Gate {
    let outbound = rules.iter().map(|rule| rule.parse().expect("a rule")).collect();
    let publish = vec!["8080:80".parse().expect("a port"), "53:53/udp".parse().expect("a port")];
    Gate::new(Policy { publish, outbound, ..Policy::default() })
}

fn connects(gate: &Gate, to: &str) -> bool {
    gate.connect(to.parse().expect("an address")).is_ok()
}

#[test]
fn outbound_truth_table() {
    // Columns: loopback, private, public, metadata, mapped loopback, IPv6 unique local.
    let to = ["127.0.0.1:1", "10.0.0.1:1", "8.8.8.8:53", "169.254.169.254:80", "[::ffff:127.0.0.1]:1", "[fd00::1]:1"];
    for (rules, want) in [
        (&[][..], [false; 6]),
        (&["any"], [true, true, true, false, true, true]),
        (&["public"], [false, false, true, false, false, false]),
        (&["private"], [true, true, false, false, true, true]),
        (&["10.0.0.0/8"], [false, true, false, false, false, false]),
        (&["127.0.0.1:1"], [true, false, false, false, true, false]),
        (&["127.0.0.1:2"], [false; 6]),
        (&["0.0.0.0/0"], [true, true, true, false, true, false]),
        (&["169.254.169.254"], [false, false, false, true, false, false]),
        (&["8.8.8.8:53", "[fd00::1]:1"], [false, false, true, false, false, true]),
    ] {
        let gate = gate(rules);
        assert_eq!(to.map(|to| connects(&gate, to)), want, "{rules:?}");
    }
}

#[test]
fn a_metadata_service_is_reached_by_none_of_its_names() {
    let gate = gate(&["any"]);
    for to in [
        "169.254.169.254:80",
        "169.254.170.23:80",
        "[::ffff:a9fe:a9fe]:80",
        "[64:ff9b::a9fe:a9fe]:80",
        "[fd00:ec2::254]:80",
    ] {
        assert!(!connects(&gate, to), "{to}");
    }
    assert!(connects(&gate, "[64:ff9b::808:808]:80"));
}

#[test]
fn a_named_host_is_checked_on_its_addresses() {
    let gate = gate(&["db.example:5432"]);
    assert!(gate.lookup("DB.example.").is_ok());
    assert!(gate.lookup("other.example").is_err());
    assert!(!connects(&gate, "10.1.2.3:5432"));
    let answer = vec!["10.1.2.3".parse().expect("ip"), "169.254.169.254".parse().expect("ip")];
    assert_eq!(gate.admit("db.example", answer).map(|kept| kept.len()), Ok(1));
    assert!(connects(&gate, "10.1.2.3:5432"));
    assert!(!connects(&gate, "10.1.2.3:22"));
    assert!(!connects(&gate, "169.254.169.254:5432"));
}

#[test]
fn name_lookup_gives_names_and_no_way_to_them() {
    let public: IpAddr = "8.8.8.8".parse().expect("ip");
    for (rules, name_lookup, looked_up) in [
        (&[][..], false, false),
        (&[], true, true),
        (&["10.0.0.0/8"], false, false),
        (&["10.0.0.0/8"], true, true),
        (&["db.example"], false, false),
        (&["any"], false, true),
    ] {
        let outbound = rules.iter().map(|rule| rule.parse().expect("a rule")).collect();
        let gate = Gate::new(Policy { outbound, name_lookup, ..Policy::default() });
        assert_eq!(gate.lookup("other.example").is_ok(), looked_up, "{rules:?}, {name_lookup}");
        if name_lookup {
            assert_eq!(gate.admit("other.example", vec![public]), Ok(vec![public]));
            assert!(!connects(&gate, "8.8.8.8:53"), "{rules:?}");
        }
    }
}

#[test]
fn requests_go_where_sockets_may_connect() {
    let public: IpAddr = "8.8.8.8".parse().expect("ip");
    for (rules, name_lookup, asked, sent) in [
        (&[][..], false, false, false),
        (&["api.example:443"], false, true, true),
        (&["api.example"], false, true, true),
        (&["api.example:80"], false, false, false),
        (&["private"], false, true, false),
        (&["public"], false, true, true),
        (&["8.8.8.0/24"], false, false, true),
        (&["8.8.8.0/24"], true, true, true),
        (&["8.8.8.0/24:80"], true, false, false),
    ] {
        let outbound = rules.iter().map(|rule| rule.parse().expect("a rule")).collect();
        let gate = Gate::new(Policy { outbound, name_lookup, ..Policy::default() });
        assert_eq!(gate.request("API.example.", 443).is_ok(), asked, "{rules:?}");
        let found = gate.destinations("API.example.", 443, &[public]).ok();
        assert_eq!(found, sent.then(|| vec![SocketAddr::new(public, 443)]), "{rules:?}");
    }
}

#[test]
fn a_refused_request_names_the_rule_for_it() {
    let to = |gate: &Gate, host, address: &str| {
        let address = address.parse().expect("ip");
        let denial = gate.request(host, 80).and_then(|()| gate.destinations(host, 80, &[address]));
        denial.expect_err("refused").to_string()
    };
    let what = |what: &str, rule: &str| format!("the guest may not {what}; to allow it, add `--allow-net {rule}`");
    for (rules, host, address, told, rule) in [
        (&[][..], "a.example", "10.0.0.1", "send requests to a.example:80", "a.example:80"),
        (&[], "10.0.0.1", "10.0.0.1", "send requests to 10.0.0.1:80", "10.0.0.1:80"),
        (&[], "::1", "::1", "send requests to [::1]:80", "[::1]:80"),
        (&["public"], "a.example", "10.0.0.1", "send requests to a.example:80, which is 10.0.0.1", "a.example:80"),
        (
            &["a.example"],
            "a.example",
            "169.254.169.254",
            "send requests to 169.254.169.254:80, which is `a.example`",
            "169.254.169.254:80",
        ),
    ] {
        assert_eq!(to(&gate(rules), host, address), what(told, rule));
        // And it is that rule which allows it.
        let allowed = gate(&[rule]);
        assert!(allowed.request(host, 80).is_ok() || rule.starts_with("169"), "{rule}");
        assert!(allowed.destinations(host, 80, &[address.parse().expect("ip")]).is_ok(), "{rule}");
    }
}

#[test]
fn a_refusal_is_counted_and_told_once() {
    let gate = gate(&[]);
    for port in [1, 1, 2, 1] {
        assert!(!connects(&gate, &format!("8.8.8.8:{port}")));
    }
    let mut counts: Vec<u64> = gate.denials.lock().expect("no panic").values().copied().collect();
    counts.sort_unstable();
    assert_eq!(counts, [1, 3]);
}

#[test]
fn a_port_may_be_whichever_the_guest_binds_first() {
    let publish = ["unix:/run/a.sock", "8080:80"].map(|text| text.parse().expect("a port")).to_vec();
    let gate = Gate::new(Policy { publish, ..Policy::default() });
    let any = |port: u16| SocketAddr::from(([0, 0, 0, 0], port));
    assert_eq!(gate.bind(any(80), Transport::Tcp), Ok(Admission::Published(1)));
    assert_eq!(gate.bind(any(1234), Transport::Tcp), Ok(Admission::Whichever(0)));
    assert_eq!(gate.bind(any(0), Transport::Tcp), Ok(Admission::Private));
    assert!(gate.bind(any(1234), Transport::Udp).is_err());
}

#[test]
fn only_published_ports_are_bound() {
    let gate = gate(&[]);
    let any = |port: u16| SocketAddr::from(([0, 0, 0, 0], port));
    assert_eq!(gate.bind(any(80), Transport::Tcp), Ok(Admission::Published(0)));
    assert_eq!(gate.bind(any(53), Transport::Udp), Ok(Admission::Published(1)));
    assert_eq!(gate.bind(any(0), Transport::Tcp), Ok(Admission::Private));
    assert!(gate.listen_unpublished(any(40_000)).is_err());
    let denial = gate.bind(any(53), Transport::Tcp).expect_err("not published");
    assert_eq!(
        denial.to_string(),
        "the guest may not bind port 53/tcp, which is not published; to allow it, add `-p 53:53`"
    );
}

#[test]
fn where_ports_need_not_be_published_those_that_are_mean_the_same() {
    let publish = vec!["8080:80".parse().expect("a port")];
    let outbound = vec!["127.0.0.1".parse().expect("a rule")];
    let gate = Gate::new(Policy { publish, outbound, listen: Listen::Anywhere, ..Policy::default() });
    let at = |text: &str| text.parse().expect("an address");
    assert_eq!(gate.bind(at("0.0.0.0:80"), Transport::Tcp), Ok(Admission::Published(0)));
    assert_eq!(gate.bind(at("0.0.0.0:80"), Transport::Udp), Ok(Admission::Open));
    assert_eq!(gate.bind(at("[::]:81"), Transport::Tcp), Ok(Admission::Open));
    assert_eq!(gate.bind(at("0.0.0.0:0"), Transport::Tcp), Ok(Admission::Private));
    assert_eq!(gate.listen_unpublished(at("0.0.0.0:40000")), Ok(Admission::Open));
    assert_eq!(gate.listen_unpublished(at("127.0.0.1:40000")), Ok(Admission::Private));
}

#[test]
fn rules_that_are_none_say_so() {
    assert!("".parse::<Outbound>().is_err());
    assert!("a b".parse::<Outbound>().is_err());
    assert!("host:port".parse::<Outbound>().is_err());
}
