/*
 * What a star costs when nothing but the kernel is in the way: hosts with a veth pair each to one bridge, dual stack,
 * ready for the first packet; as few requests as there can be. See floor.c, which does it for two.
 *
 *   cc -O2 -Wall -Wextra -o star benchmarks/star.c
 *   ./star HOSTS [--userns]
 *
 * Prints one JSON object: build_us, until every host can be used; echo_us, a first echo from the first host to the
 * last; close_us, until close() of all descriptors has returned.
 *
 * Three things keep hosts out of each other's way, and are worth more than all requests together where there are many:
 * the bridge is switched on last, so that what each host says when it gets an address reaches nobody; few listen at a
 * time to what the kernel announces; and settings are written by way of a /proc that is forgotten soon, as the kernel
 * goes through all namespaces' settings of one name that it remembers.
 */
#include "floor.h"

#include <sys/resource.h>
#include <sys/syscall.h>

enum {
    MOST = 1000,
    CABLES = 32,  /* in one send: a send is at most 208 KiB, and a batch 16 */
    ANSWERS = 16, /* more of them do not fit into a socket's queue */
    LISTENERS = 32,
    SETTINGS = 64, /* by way of one /proc */
};

static struct space hosts[MOST];

static void listen_to_addresses(struct space *space, bool begin)
{
    const int group = RTNLGRP_IPV6_IFADDR;
    const int verb = begin ? NETLINK_ADD_MEMBERSHIP : NETLINK_DROP_MEMBERSHIP;

    checked(setsockopt(space->netlink, SOL_NETLINK, verb, &group, sizeof group), "RTNLGRP_IPV6_IFADDR");
}

/* Mounted nowhere (fsopen(2)); where that is forbidden, or older than Linux 5.2, the one that is there. */
static int open_proc(void)
{
    int context = syscall(SYS_fsopen, "proc", 1);
    int proc = -1;

    if (context >= 0 && syscall(SYS_fsconfig, context, 6, NULL, NULL, 0) == 0)
        proc = syscall(SYS_fsmount, context, 1, 0);
    if (context >= 0)
        close(context);
    return proc >= 0 ? proc : checked(open("/proc", O_PATH | O_CLOEXEC), "open /proc");
}

static struct space new_host(int proc)
{
    struct space space = new_space(true, false, false);
    int fd = checked(openat(proc, "sys/net/ipv6/conf/default/accept_dad", O_WRONLY | O_CLOEXEC), "accept_dad");

    checked(write(fd, "0", 1), "accept_dad");
    close(fd);
    return space;
}

static void add_cables(struct space *bridge, int first, int end)
{
    struct batch batch = {.used = 0};
    char name[16];

    if (first == 0)
        add_bridge(&batch, false);
    for (int host = first; host < end; host++) {
        snprintf(name, sizeof name, "veth-h%d", host);
        add_veth_pair(&batch, name, host, hosts[host].fd);
    }
    transact(bridge, &batch);
}

/* The portion's addresses are asked for before the first of them is waited for. */
static void equip(int first, int end)
{
    for (int host = first; host < end; host++)
        listen_to_addresses(&hosts[host], true);
    for (int host = first; host < end; host++)
        equip_host(&hosts[host], host, true, 16);
    for (int host = first; host < end; host++) {
        settle(&hosts[host], PEER_INDEX + host, 1);
        while (!hosts[host].ipv6_ready)
            receive(&hosts[host]);
        listen_to_addresses(&hosts[host], false);
    }
}

static int smaller(int one, int other)
{
    return one < other ? one : other;
}

static void build(struct space *bridge, int count)
{
    struct batch batch = {.used = 0};
    int proc = -1;

    for (int host = 0; host < count; host++) {
        if (host % SETTINGS == 0) {
            close(proc);
            proc = open_proc();
        }
        hosts[host] = new_host(proc);
    }
    close(proc);
    *bridge = new_space(false, false, false);
    checked(setns(home, CLONE_NEWNET), "setns");
    for (int host = 0; host < count; host += CABLES)
        add_cables(bridge, host, smaller(host + CABLES, count));
    for (int host = 0; host < count; host += LISTENERS)
        equip(host, smaller(host + LISTENERS, count));
    set_up(&batch, BRIDGE_INDEX);
    transact(bridge, &batch);
    for (int host = 0; host < count; host += ANSWERS) {
        bridge->links_up = 0;
        settle(bridge, NEAR_INDEX + host, smaller(ANSWERS, count - host));
    }
}

int main(int arguments, char **argument)
{
    const int count = arguments > 1 ? atoi(argument[1]) : 0;
    struct rlimit files;
    struct space bridge;
    double start, ready, echoed;
    int raw;

    if (count < 2 || count > MOST)
        fail("HOSTS: from 2 to 1000", EINVAL);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (arguments > 2 && !strcmp(argument[2], "--userns"))
        enter_user_namespace();
    home = checked(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), "open /proc/self/ns/net");
    start = now_us();
    build(&bridge, count);
    ready = now_us();
    raw = raw_socket(&hosts[0], AF_INET, IPPROTO_ICMP);
    echo_ipv4(raw, count - 1, 1);
    echoed = now_us();
    close(raw);
    for (int host = 0; host < count; host++) {
        close(hosts[host].netlink);
        close(hosts[host].fd);
    }
    close(bridge.netlink);
    printf("{\"build_us\": %.1f, \"echo_us\": %.1f, \"close_us\": %.1f}\n", ready - start, echoed - ready,
           now_us() - echoed);
    return 0;
}
