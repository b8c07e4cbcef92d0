/* Opens a network interface whose packets are datagrams on the standard input, in both directions.
 * The interface is named by the argument, and goes with the process. One empty-handed byte says that
 * it is there. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PACKET_BYTES = 65536 };

static int interface;

/* Ends with the process: a packet that nobody takes is lost, as anywhere. */
static void *inward(void *unused)
{
    static char packet[PACKET_BYTES];
    for (;;) {
        ssize_t length = recv(0, packet, sizeof packet, 0);
        if (length > 0 && write(interface, packet, length) < 0)
            continue;
    }
    return unused;
}

int main(int count, char **arguments)
{
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    pthread_t thread;
    static char packet[PACKET_BYTES];

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    interface = open("/dev/net/tun", O_RDWR);
    if (count < 2 || interface < 0) {
        fprintf(stderr, "/dev/net/tun: %s\n", strerror(errno));
        return 1;
    }
    strncpy(request.ifr_name, arguments[1], IFNAMSIZ - 1);
    if (ioctl(interface, TUNSETIFF, &request) < 0) {
        fprintf(stderr, "a tun interface: %s\n", strerror(errno));
        return 1;
    }
    if (pthread_create(&thread, NULL, inward, NULL) || send(0, "!", 1, 0) < 0)
        return 1;
    for (;;) {
        ssize_t length = read(interface, packet, sizeof packet);
        if (length > 0 && send(0, packet, length, 0) < 0 && errno != EAGAIN)
            return 0;
    }
}
