/*
 * What the floors have in common: netlink requests for hosts, veth pairs and a bridge, each as small as it can be; no
 * library, no allocation. A program that includes this has one source file.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/icmp.h>
#include <linux/icmpv6.h>
#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <linux/veth.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    LO_INDEX = 1,
    BRIDGE_INDEX = 1000,
    /* Never the same at both ends, as the kernel's own choice would be: it sees no hurry in a link whose
     * index is its peer's too, and may let a change of its carrier wait for a second. */
    NEAR_INDEX = 1001,
    PEER_INDEX = 2001,
    MTU = 1500,
    WAIT_LIMIT_S = 30, /* the kernel's clean-up of earlier networks may hold its lock for seconds */
};

struct space {
    int netlink;
    int fd;            /* of the namespace; hosts only */
    bool ipv6_ready;
    int links_up;      /* how many replies said UP since links_up was last set to 0 */
};

struct batch {
    char bytes[16384];
    size_t used;
    struct nlmsghdr *message; /* the one being written */
    uint32_t sequence;
};

static int home; /* the namespace this process returns to */

/* ------------------------------------------------------------------ failing, time */

static _Noreturn void fail(const char *what, int error)
{
    printf("{\"error\": \"%s: %s\"}\n", what, strerror(error));
    fflush(stdout);
    exit(1);
}

static int checked(int result, const char *what)
{
    if (result < 0)
        fail(what, errno);
    return result;
}

static double now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void write_file(const char *path, const char *text)
{
    int fd = checked(open(path, O_WRONLY | O_CLOEXEC), path);

    if (write(fd, text, strlen(text)) < 0)
        fail(path, errno);
    close(fd);
}

/* ------------------------------------------------------------------ netlink, encoding */

static void *reserve(struct batch *batch, size_t size)
{
    void *place = batch->bytes + batch->used;

    batch->used += NLMSG_ALIGN(size);
    if (batch->used > sizeof batch->bytes)
        fail("batch too long", EMSGSIZE);
    memset(place, 0, NLMSG_ALIGN(size));
    return place;
}

static void *begin_message(struct batch *batch, uint16_t type, uint16_t flags, size_t header)
{
    batch->message = reserve(batch, sizeof *batch->message);
    batch->message->nlmsg_type = type;
    batch->message->nlmsg_flags = NLM_F_REQUEST | flags;
    batch->message->nlmsg_seq = ++batch->sequence;
    return reserve(batch, header);
}

static void end_message(struct batch *batch)
{
    batch->message->nlmsg_len = batch->bytes + batch->used - (char *)batch->message;
}

static void put(struct batch *batch, uint16_t type, const void *value, size_t size)
{
    struct rtattr *attribute = reserve(batch, RTA_LENGTH(size));

    attribute->rta_type = type;
    attribute->rta_len = RTA_LENGTH(size);
    if (size)
        memcpy(RTA_DATA(attribute), value, size);
}

static void put_u32(struct batch *batch, uint16_t type, uint32_t value)
{
    put(batch, type, &value, sizeof value);
}

static void put_text(struct batch *batch, uint16_t type, const char *text)
{
    put(batch, type, text, strlen(text) + 1);
}

static struct rtattr *open_nest(struct batch *batch, uint16_t type)
{
    struct rtattr *nest = reserve(batch, sizeof *nest);

    nest->rta_type = type | NLA_F_NESTED;
    return nest;
}

static void close_nest(struct batch *batch, struct rtattr *nest)
{
    nest->rta_len = batch->bytes + batch->used - (char *)nest;
}

/* ------------------------------------------------------------------ netlink, answers */

/* An address added with IFA_F_NODAD is announced when it can be used: the host has then joined the group that
 * neighbours ask for it. (Without that flag it is announced before as well, with IFA_F_TENTATIVE.) */
static void note_address(struct space *space, const struct nlmsghdr *message)
{
    const struct ifaddrmsg *address = NLMSG_DATA(message);

    if (address->ifa_index >= PEER_INDEX && address->ifa_scope == RT_SCOPE_UNIVERSE &&
        !(address->ifa_flags & IFA_F_TENTATIVE))
        space->ipv6_ready = true;
}

static void note_link(struct space *space, const struct nlmsghdr *message)
{
    struct rtattr *attribute = IFLA_RTA((struct ifinfomsg *)NLMSG_DATA(message));
    int left = IFLA_PAYLOAD(message);

    for (; RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left))
        if (attribute->rta_type == IFLA_OPERSTATE)
            space->links_up += *(uint8_t *)RTA_DATA(attribute) == IF_OPER_UP;
}

/* Read one datagram; return the highest sequence number that it answers, 0 for a notification. */
static uint32_t receive(struct space *space)
{
    static char buffer[32768] __attribute__((aligned(NLMSG_ALIGNTO)));
    ssize_t size = recv(space->netlink, buffer, sizeof buffer, 0);
    struct nlmsghdr *message = (struct nlmsghdr *)buffer;
    uint32_t answered = 0;

    if (size < 0)
        fail("waiting for the kernel's answer", errno);
    for (; NLMSG_OK(message, (size_t)size); message = NLMSG_NEXT(message, size)) {
        if (message->nlmsg_type == NLMSG_ERROR && ((struct nlmsgerr *)NLMSG_DATA(message))->error)
            fail("netlink request", -((struct nlmsgerr *)NLMSG_DATA(message))->error);
        if (message->nlmsg_type == RTM_NEWADDR)
            note_address(space, message);
        if (message->nlmsg_type == RTM_NEWLINK)
            note_link(space, message);
        if (message->nlmsg_seq > answered)
            answered = message->nlmsg_seq;
    }
    return answered;
}

/* Send all, and wait until the last one is answered. A refusal comes unasked for any of them; agreement has
 * to be asked for (NLM_F_ACK), but for RTM_GETLINK, which is answered by the link. */
static void transact(struct space *space, struct batch *batch)
{
    if (batch->message->nlmsg_type != RTM_GETLINK)
        batch->message->nlmsg_flags |= NLM_F_ACK;
    checked(send(space->netlink, batch->bytes, batch->used, 0), "send to netlink");
    while (receive(space) != batch->sequence)
        ;
}

/* ------------------------------------------------------------------ requests */

static void set_up(struct batch *batch, int index)
{
    struct ifinfomsg *link = begin_message(batch, RTM_NEWLINK, 0, sizeof *link);

    link->ifi_index = index;
    link->ifi_flags = link->ifi_change = IFF_UP;
    end_message(batch);
}

/* Not for the answer's sake: to answer it the kernel does at once what its linkwatch worker would do some
 * time later, and until that is done the first packet is lost, and repeated after a second. */
static void get_link(struct batch *batch, int index)
{
    struct ifinfomsg *link = begin_message(batch, RTM_GETLINK, 0, sizeof *link);

    link->ifi_index = index;
    put_u32(batch, IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    end_message(batch);
}

static void add_bridge(struct batch *batch, bool up)
{
    struct ifinfomsg *link = begin_message(batch, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, sizeof *link);
    struct rtattr *info;

    link->ifi_index = BRIDGE_INDEX;
    link->ifi_flags = link->ifi_change = up ? IFF_UP : 0;
    put_text(batch, IFLA_IFNAME, "br0");
    info = open_nest(batch, IFLA_LINKINFO);
    put_text(batch, IFLA_INFO_KIND, "bridge");
    close_nest(batch, info);
    end_message(batch);
}

/* What both ends of a veth pair have. One queue: more of them make the kernel wait for RCU at each end. */
static void put_end(struct batch *batch, const char *name, int side, int host)
{
    const uint8_t mac[6] = {0x02, 0, 0, side, (host + 1) >> 8, (host + 1) & 255};

    put_text(batch, IFLA_IFNAME, name);
    put(batch, IFLA_ADDRESS, mac, sizeof mac);
    put_u32(batch, IFLA_MTU, MTU);
    put_u32(batch, IFLA_NUM_TX_QUEUES, 1);
    put_u32(batch, IFLA_NUM_RX_QUEUES, 1);
}

/* Both ends are made where they stay: to move one costs an rcu_barrier(), some 15 ms. */
static void add_veth_pair(struct batch *batch, const char *name, int host, int host_fd)
{
    struct ifinfomsg *near = begin_message(batch, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, sizeof *near);
    struct ifinfomsg *peer;
    struct rtattr *info, *data, *peer_nest;

    near->ifi_index = NEAR_INDEX + host;
    near->ifi_flags = near->ifi_change = IFF_UP;
    put_end(batch, name, 0, host);
    put_u32(batch, IFLA_MASTER, BRIDGE_INDEX);
    info = open_nest(batch, IFLA_LINKINFO);
    put_text(batch, IFLA_INFO_KIND, "veth");
    data = open_nest(batch, IFLA_INFO_DATA);
    peer_nest = open_nest(batch, VETH_INFO_PEER);
    peer = reserve(batch, sizeof *peer); /* IFF_UP here would be refused: the pair is not tied yet */
    peer->ifi_index = PEER_INDEX + host;
    put_end(batch, "eth0", 1, host);
    put_u32(batch, IFLA_NET_NS_FD, host_fd);
    close_nest(batch, peer_nest);
    close_nest(batch, data);
    close_nest(batch, info);
    end_message(batch);
}

static void add_address(struct batch *batch, int index, int family, const void *value, uint8_t prefix)
{
    struct ifaddrmsg *address = begin_message(batch, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, sizeof *address);
    size_t size = family == AF_INET ? sizeof(struct in_addr) : sizeof(struct in6_addr);

    address->ifa_family = family;
    address->ifa_prefixlen = prefix;
    address->ifa_index = index;
    address->ifa_flags = family == AF_INET6 ? IFA_F_NODAD : 0;
    put(batch, IFA_LOCAL, value, size);
    put(batch, IFA_ADDRESS, value, size);
    end_message(batch);
}

/* ------------------------------------------------------------------ the network */

static struct in_addr ipv4_of(int host)
{
    return (struct in_addr){.s_addr = htonl(0x0a000001 + host)}; /* 10.0.0.1, 10.0.0.2 */
}

static struct in6_addr ipv6_of(int host)
{
    return (struct in6_addr){.s6_addr = {0xfd, [14] = (host + 1) >> 8, [15] = (host + 1) & 255}}; /* fd00::1, fd00::2 */
}

/* Leaves this process in the new namespace. */
static struct space new_space(bool is_host, bool ipv6, bool listens)
{
    const struct timeval limit = {.tv_sec = WAIT_LIMIT_S};
    struct sockaddr_nl address = {.nl_family = AF_NETLINK};
    struct space space = {.fd = -1};

    checked(unshare(CLONE_NEWNET), "unshare(CLONE_NEWNET)");
    space.netlink = checked(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), "netlink socket");
    setsockopt(space.netlink, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (!is_host)
        return space;
    space.fd = checked(ioctl(space.netlink, SIOCGSKNS), "SIOCGSKNS");
    if (ipv6) {
        /* The larger of `all` and the device's own counts, and the device's own comes from `default`. */
        write_file("/proc/sys/net/ipv6/conf/all/accept_dad", "0");
        write_file("/proc/sys/net/ipv6/conf/default/accept_dad", "0");
    }
    if (ipv6 && listens) {
        address.nl_groups = RTMGRP_IPV6_IFADDR;
        checked(bind(space.netlink, (struct sockaddr *)&address, sizeof address), "bind to RTMGRP_IPV6_IFADDR");
    }
    return space;
}

static void equip_host(struct space *space, int host, bool ipv6, uint8_t prefix)
{
    const struct in_addr ipv4 = ipv4_of(host);
    const struct in6_addr ipv6_address = ipv6_of(host);
    struct batch batch = {.used = 0};

    set_up(&batch, LO_INDEX);
    set_up(&batch, PEER_INDEX + host);
    add_address(&batch, PEER_INDEX + host, AF_INET, &ipv4, prefix);
    if (ipv6)
        add_address(&batch, PEER_INDEX + host, AF_INET6, &ipv6_address, 64);
    get_link(&batch, PEER_INDEX + host);
    transact(space, &batch);
}

/* Kernels before 6.8 answer RTM_GETLINK without doing the worker's work: there, ask until it is done. */
static void settle(struct space *space, int first_index, int count)
{
    double deadline = now_us() + WAIT_LIMIT_S * 1e6;

    while (space->links_up < count) {
        struct batch batch = {.used = 0};

        if (now_us() > deadline)
            fail("waiting for links to be up", ETIMEDOUT);
        space->links_up = 0;
        for (int offset = 0; offset < count; offset++)
            get_link(&batch, first_index + offset);
        transact(space, &batch);
    }
}

/* ------------------------------------------------------------------ echoes */

/* RFC 1071 */
static uint16_t checksum(const void *data, size_t size)
{
    const char *bytes = data;
    uint32_t sum = 0;
    uint16_t word;

    for (size_t at = 0; at < size; at += sizeof word) {
        memcpy(&word, bytes + at, sizeof word);
        sum += word;
    }
    sum = (sum >> 16) + (sum & 0xffff);
    return ~(sum + (sum >> 16));
}

static int raw_socket(const struct space *space, int family, int protocol)
{
    const struct timeval limit = {.tv_sec = WAIT_LIMIT_S};
    int fd;

    checked(setns(space->fd, CLONE_NEWNET), "setns");
    fd = checked(socket(family, SOCK_RAW | SOCK_CLOEXEC, protocol), "raw socket");
    checked(setns(home, CLONE_NEWNET), "setns");
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    return fd;
}

/* A raw socket for IPv4 hands out the IP header too: 20 bytes, as the kernel adds no options to replies. */
static void echo_ipv4(int fd, int target, uint16_t sequence)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr = ipv4_of(target)};
    struct icmphdr request = {.type = ICMP_ECHO, .un.echo = {.id = 0x0bad, .sequence = sequence}};
    struct icmphdr *reply;
    char bytes[256] __attribute__((aligned(4)));

    request.checksum = checksum(&request, sizeof request);
    checked(sendto(fd, &request, sizeof request, 0, (struct sockaddr *)&to, sizeof to), "send an echo request");
    do {
        checked(recv(fd, bytes, sizeof bytes, 0), "wait for an echo reply");
        reply = (struct icmphdr *)(bytes + 20);
    } while (reply->type != ICMP_ECHOREPLY || reply->un.echo.sequence != sequence);
}

/* ------------------------------------------------------------------ privilege */

/* Identity map: no privilege is needed to map oneself, and files keep the owner they have. */
static void enter_user_namespace(void)
{
    unsigned uid = geteuid(), gid = getegid();
    char map[64];

    checked(unshare(CLONE_NEWUSER | CLONE_NEWNET), "unshare(CLONE_NEWUSER | CLONE_NEWNET)");
    snprintf(map, sizeof map, "%u %u 1", uid, uid);
    write_file("/proc/self/uid_map", map);
    write_file("/proc/self/setgroups", "deny");
    snprintf(map, sizeof map, "%u %u 1", gid, gid);
    write_file("/proc/self/gid_map", map);
}
