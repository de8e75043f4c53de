/*
 * What the work of the `netns_pair` fixture costs when nothing but the kernel is in the way.
 *
 * Two hosts, beijing and shanghai, joined by a veth pair each to a bridge in a third network namespace;
 * dual stack, ready for the first packet. No library, no allocation, and as few kernel requests as there
 * can be: one sendmsg() for all that is asked of a namespace at a time.
 *
 *   cc -O2 -Wall -Wextra -o floor benchmarks/floor.c
 *   ./floor [--userns] [-6 | --no-ipv6] [--echo6]
 *
 * --userns    work without privilege, inside a user namespace of its own
 * --no-ipv6   IPv4 addresses only, and no wait for IPv6 (-6, the default, is the dual stack)
 * --echo6     ask for an ICMPv6 echo too, first thing after the set-up: shows that "ready" is true of IPv6
 *
 * Reads lines. For each one it builds, pings, and drops one such network, and prints one JSON object with
 * microseconds, so that whoever measures can let it take turns with something else:
 *
 *   setup_us      until both hosts can be used; ipv6_wait_us is the part of it spent on waiting at its end
 *   echo_us       first echo: raw socket opened in beijing, ARP, request, reply
 *   warm_echo_us  the same request once more
 *   teardown_us   until close() has returned; the kernel frees links and namespaces later by itself
 *
 * A round that fails prints {"error": "..."} and ends the program with status 1.
 */
#include "floor.h"

enum { HOSTS = 2 };

struct options {
    bool ipv6;
    bool userns;
    bool echo6;
};

static const char *const host_names[HOSTS] = {"beijing", "shanghai"};

/* ------------------------------------------------------------------ the network */

static void join_hosts(struct space *bridge, const struct space *hosts)
{
    struct batch batch = {.used = 0};

    add_bridge(&batch, true);
    for (int host = 0; host < HOSTS; host++)
        add_veth_pair(&batch, host_names[host], host, hosts[host].fd);
    transact(bridge, &batch);
}

static void echo_ipv6(int fd)
{
    struct sockaddr_in6 to = {.sin6_family = AF_INET6, .sin6_addr = ipv6_of(1)};
    struct icmp6hdr message = {.icmp6_type = ICMPV6_ECHO_REQUEST};

    checked(sendto(fd, &message, sizeof message, 0, (struct sockaddr *)&to, sizeof to), "send an echo request");
    do
        checked(recv(fd, &message, sizeof message, 0), "wait for an ICMPv6 echo reply");
    while (message.icmp6_type != ICMPV6_ECHO_REPLY);
}

/* ------------------------------------------------------------------ one round */

static double set_up_pair(const struct options *options, struct space *bridge, struct space *hosts)
{
    double waiting;

    for (int host = 0; host < HOSTS; host++)
        hosts[host] = new_space(true, options->ipv6, true);
    *bridge = new_space(false, false, false);
    checked(setns(home, CLONE_NEWNET), "setns");
    join_hosts(bridge, hosts);
    for (int host = 0; host < HOSTS; host++)
        equip_host(&hosts[host], host, options->ipv6, 24);
    settle(bridge, NEAR_INDEX, HOSTS); /* these carry something only now that their peers are up */
    waiting = now_us();
    for (int host = 0; host < HOSTS; host++) {
        settle(&hosts[host], PEER_INDEX + host, 1);
        while (options->ipv6 && !hosts[host].ipv6_ready)
            receive(&hosts[host]);
    }
    return now_us() - waiting;
}

static void run_round(const struct options *options)
{
    struct space bridge, hosts[HOSTS];
    double start = now_us(), waited, ready, echo6, first, warm;
    int raw, raw6 = -1;

    waited = set_up_pair(options, &bridge, hosts);
    ready = now_us();
    if (options->echo6) {
        raw6 = raw_socket(&hosts[0], AF_INET6, IPPROTO_ICMPV6);
        echo_ipv6(raw6);
    }
    echo6 = now_us();
    raw = raw_socket(&hosts[0], AF_INET, IPPROTO_ICMP);
    echo_ipv4(raw, 1, 1);
    first = now_us();
    echo_ipv4(raw, 1, 2);
    warm = now_us();
    if (raw6 >= 0)
        close(raw6);
    close(raw);
    for (int host = 0; host < HOSTS; host++) {
        close(hosts[host].netlink);
        close(hosts[host].fd);
    }
    close(bridge.netlink);
    printf("{\"setup_us\": %.1f, \"ipv6_wait_us\": %.1f, \"echo6_us\": %.1f, \"echo_us\": %.1f, "
           "\"warm_echo_us\": %.1f, \"teardown_us\": %.1f}\n",
           ready - start, waited, echo6 - ready, first - echo6, warm - first, now_us() - warm);
}

/* ------------------------------------------------------------------ the program */

static struct options parse(char **arguments)
{
    struct options options = {.ipv6 = true};

    for (char **argument = arguments + 1; *argument; argument++) {
        if (!strcmp(*argument, "-6"))
            options.ipv6 = true;
        else if (!strcmp(*argument, "--no-ipv6"))
            options.ipv6 = false;
        else if (!strcmp(*argument, "--userns"))
            options.userns = true;
        else if (!strcmp(*argument, "--echo6"))
            options.echo6 = true;
        else
            fail(*argument, EINVAL);
    }
    return options;
}

int main(int count, char **arguments)
{
    const struct options options = parse(arguments);
    char line[256];

    (void)count;
    if (options.userns)
        enter_user_namespace();
    home = checked(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), "open /proc/self/ns/net");
    while (fgets(line, sizeof line, stdin)) {
        run_round(&options);
        fflush(stdout);
    }
    return 0;
}
